//! tumen
