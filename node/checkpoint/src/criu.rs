//! CRIU, by its RPC: a dump that is held before it ends, a restore that is held before its first instruction.
