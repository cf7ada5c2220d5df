//! From payload to records: one module a format, and the compiled source that drives them.
