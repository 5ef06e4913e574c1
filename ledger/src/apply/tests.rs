//! The table of records: what each does when its preconditions hold, and every way to break one.

mod handoffs;
