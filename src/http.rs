//! The node's HTTP interface: what people and other programs ask a node.

pub mod shapes;
