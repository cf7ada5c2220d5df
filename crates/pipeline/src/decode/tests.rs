//! Behaviour of decoding.
