//! Restart verdicts.
