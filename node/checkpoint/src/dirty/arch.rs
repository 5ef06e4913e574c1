//! What borrowing a thread's registers has to know of the processor. Another one is added as a module beside `x86_64`:
//! the instruction that enters the kernel, and where number, arguments and result of a call lie.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{NOT_RESTARTED, Registers, SYSCALL};

#[cfg(not(target_arch = "x86_64"))]
mod other;
#[cfg(not(target_arch = "x86_64"))]
pub(super) use other::{NOT_RESTARTED, Registers, SYSCALL};
