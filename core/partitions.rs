//! Partitions: who may write, where a key goes, what runs here.
