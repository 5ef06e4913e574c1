//! The System V ABI of x86-64: number in `rax`, arguments in `rdi`, `rsi`, `rdx`, result in `rax`; `syscall` destroys `rcx`
//! and `r11`, which are given back with all others.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::dirty::Refusal;

/// The instruction `syscall`.
pub(in crate::dirty) const SYSCALL: &[u8] = &[0x0f, 0x05];

/// Calls that end with `EINTR` after any stop (signal(7)): programs that make them must know, but another thread is better.
pub(in crate::dirty) const NOT_RESTARTED: &[libc::c_long] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
];

/// The code segment of 64-bit programs (`__USER_CS`).
const CODE_64: u64 = 0x33;

/// All general registers of a stopped thread.
#[derive(Clone, Copy)]
pub(in crate::dirty) struct Registers(libc::user_regs_struct);

impl Registers {
    pub fn of(thread: Pid) -> Result<Self, Errno> {
        ptrace::getregs(thread).map(Self)
    }

    pub fn give_to(&self, thread: Pid) -> Result<(), Errno> {
        ptrace::setregs(thread, self.0)
    }

    /// Refuses what cannot be borrowed: a 32-bit program would read the instruction otherwise.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.0.cs == CODE_64 { Ok(()) } else { Err(Refusal::Program32) }
    }

    pub fn instruction(&self) -> u64 {
        self.0.rip
    }

    /// These, but about to execute the `syscall` at `instruction`. `orig_rax` of -1 says that no call was interrupted, so that
    /// the kernel does not restart one here.
    pub fn calling(&self, instruction: u64, number: libc::c_long, argument: u64) -> Self {
        let mut regs = self.0;
        regs.rip = instruction;
        regs.rax = number.cast_unsigned();
        regs.orig_rax = u64::MAX;
        regs.rdi = argument;
        (regs.rsi, regs.rdx) = (0, 0);
        Self(regs)
    }

    /// The result of a call that has returned.
    pub fn result(&self) -> Result<i64, Errno> {
        let value = self.0.rax.cast_signed();
        // The last page of addresses stands for errors.
        if (-4095..0).contains(&value) {
            Err(Errno::from_raw(i32::try_from(-value).expect("below 4096")))
        } else {
            Ok(value)
        }
    }
}
