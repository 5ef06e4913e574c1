//! Serves the pages that a restored process still lacks, in place of `criu lazy-pages`.
