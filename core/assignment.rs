//! Assignment: who holds which partition. Members and the previous layout go in, the next layout comes out.
