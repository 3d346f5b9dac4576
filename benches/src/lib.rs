//! Holds the Criterion benches (`benches/`) and the committed records (`record/`).
#![forbid(unsafe_code)]
