//! Processors whose registers are not borrowed: everything is refused by name before a thread is touched.

use std::convert::Infallible;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::dirty::Refusal;

pub(in crate::dirty) const SYSCALL: &[u8] = &[];

pub(in crate::dirty) const NOT_RESTARTED: &[libc::c_long] = &[];

#[derive(Clone, Copy)]
pub(in crate::dirty) struct Registers(Infallible);

impl Registers {
    pub fn of(_thread: Pid) -> Result<Self, Errno> {
        Err(Errno::ENOSYS)
    }

    pub fn give_to(&self, _thread: Pid) -> Result<(), Errno> {
        match self.0 {}
    }

    pub fn check(&self) -> Result<(), Refusal> {
        match self.0 {}
    }

    pub fn instruction(&self) -> u64 {
        match self.0 {}
    }

    pub fn calling(&self, _instruction: u64, _number: libc::c_long, _argument: u64) -> Self {
        match self.0 {}
    }

    pub fn result(&self) -> Result<i64, Errno> {
        match self.0 {}
    }
}
