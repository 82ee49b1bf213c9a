//! Where an [`Image`] lies: in this process, or in a mapped file.
//!
//! Loom's atomics are no plain memory, so that under loom there is no file.

use std::fs::File;
use std::io;
use std::ops::Deref;

use super::image::Image;
#[cfg(not(loom))]
use crate::net::shared::{AnyBytes, Shared, Zeroed};

pub(super) enum Memory {
    Own(Box<Image>),
    #[cfg(not(loom))]
    File(Shared<Image>),
}

// SAFETY: atomic integers in a fixed order, and gaps that nobody reads; zero is a number. It has nothing to drop.
#[cfg(not(loom))]
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Zeroed for Image {}

// SAFETY: every pattern of bits is a number.
#[cfg(not(loom))]
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl AnyBytes for Image {}

impl Memory {
    /// Of a file that is as long as an image.
    #[cfg(not(loom))]
    pub(super) fn of_file(file: &File, to_write: bool) -> io::Result<Memory> {
        let shared = match to_write {
            true => Shared::of_file(file)?,
            // SAFETY: `Cell::set` refuses a cell that may only be read before it comes to a store, and a reader's loads
            // are relaxed ones of words.
            #[allow(unsafe_code, reason = "the type of an image does not say that it cannot be written to")]
            false => unsafe { Shared::of_file_to_read(file)? },
        };
        Ok(Memory::File(shared))
    }

    #[cfg(loom)]
    pub(super) fn of_file(_: &File, _: bool) -> io::Result<Memory> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Deref for Memory {
    type Target = Image;

    fn deref(&self) -> &Image {
        match self {
            Memory::Own(image) => image,
            #[cfg(not(loom))]
            Memory::File(shared) => &shared[0],
        }
    }
}
