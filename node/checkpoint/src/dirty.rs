//! Which pages of a running process were written, found from outside by userfaultfd write protection.
