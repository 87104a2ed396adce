//! How many nodes act as one: the residents that obey `tumen_core::cluster`.

pub mod consensus;
