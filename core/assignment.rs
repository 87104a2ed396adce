//! Assignment: members and the previous map in, the next map out.
