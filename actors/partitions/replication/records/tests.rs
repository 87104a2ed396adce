//! What is written is what is read back; or that it is not, is said.
