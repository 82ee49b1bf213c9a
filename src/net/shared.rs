//! Memory that processes share: with the children that are forked later, or with all who map the same file.
//!
//! The former has no name, and is gone when the last of them has unmapped it or ended. Nothing here locks: a process may
//! be killed at any instant, and a lock that it held would stay locked. So there are only values made of atomics, and
//! what they mean while somebody is in the middle of changing them is their type's to say (`engine/scoreboard.rs`,
//! `cell/image.rs`).
//!
//! A file may shrink while it is mapped. What is then touched of it reads as zeros (`shared/guard.rs`).

mod guard;

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use guard::Guard;

/// A type made of atomics.
///
/// # Safety
/// All bytes zero is a valid value; it is the same to every process that has it mapped (no pointer, no reference, no
/// lock, no descriptor); and nothing is lost if it is never dropped.
#[allow(unsafe_code, reason = "the compiler cannot check what the bytes of a type mean")]
pub unsafe trait Zeroed: Sync + 'static {}

// SAFETY: zero is a number.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Zeroed for AtomicU32 {}

// SAFETY: zero is a number.
#[allow(unsafe_code, reason = "see the trait")]
unsafe impl Zeroed for AtomicU64 {}

/// A type made of atomics that means something whatever its bytes are, as far as the language goes: others may write to
/// the file that it is mapped from.
///
/// # Safety
/// Every pattern of bytes is a valid value.
#[allow(unsafe_code, reason = "the compiler cannot check what the bytes of a type mean")]
pub unsafe trait AnyBytes: Zeroed {}

/// So many values of `T`, shared with other processes.
pub struct Shared<T: Zeroed> {
    first: NonNull<T>,
    count: usize,
    /// Of a file: what keeps its shrinking from being our end, as long as the mapping is there.
    guard: Option<Guard>,
}

// SAFETY: it owns the mapping, which is not bound to a thread, and lends only `&T`, of a T that is `Sync`.
#[allow(unsafe_code, reason = "a pointer says nothing about threads")]
unsafe impl<T: Zeroed> Send for Shared<T> {}

// SAFETY: as above.
#[allow(unsafe_code, reason = "as above")]
unsafe impl<T: Zeroed> Sync for Shared<T> {}

impl<T: Zeroed> Shared<T> {
    /// Maps them, all zero at first, for this process and the children that are forked from now on. The kernel gives a
    /// page when it is first written to.
    ///
    /// # Errors
    /// When there is no memory left.
    ///
    /// # Panics
    /// There is no memory for no values.
    pub fn new(count: usize) -> io::Result<Shared<T>> {
        const { Self::CAN_BE_MAPPED };
        let bytes = size_of::<T>().checked_mul(count).ok_or(io::ErrorKind::OutOfMemory)?;
        assert!(bytes > 0, "there is no memory for {count} values of {} bytes", size_of::<T>());
        // SAFETY: the kernel chooses where; no memory that anybody has is touched.
        #[allow(unsafe_code, reason = "neither `std` nor a crate of ours has shared anonymous memory")]
        let mapped =
            unsafe { mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)? };
        Ok(Shared { first: first_of(mapped), count, guard: None })
    }

    const CAN_BE_MAPPED: () = {
        assert!(align_of::<T>() <= 4096, "a mapping begins at a page");
        assert!(!std::mem::needs_drop::<T>(), "nobody knows who would be the one to drop it");
    };
}

impl<T: AnyBytes> Shared<T> {
    /// Maps one value from the beginning of `file`, which is open for reading and writing, for all who map it. What lies
    /// behind the end of the file reads as zeros, and is written to in vain.
    ///
    /// # Errors
    /// When there is no memory left, or the file cannot be mapped.
    pub fn of_file(file: &File) -> io::Result<Shared<T>> {
        Shared::map_file(file, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// The same of a file that is open for reading.
    ///
    /// # Errors
    /// When there is no memory left, or the file cannot be mapped.
    ///
    /// # Safety
    /// Nothing is stored to the value, and nothing is loaded from it but by relaxed loads of 32 or 64 bits.
    #[allow(unsafe_code, reason = "the type of a value does not say that it cannot be written to")]
    pub unsafe fn of_file_to_read(file: &File) -> io::Result<Shared<T>> {
        Shared::map_file(file, ProtFlags::READ)
    }

    fn map_file(file: &File, access: ProtFlags) -> io::Result<Shared<T>> {
        const { Self::CAN_BE_MAPPED };
        let bytes = size_of::<T>();
        // SAFETY: the kernel chooses where; no memory that anybody has is touched.
        #[allow(unsafe_code, reason = "neither `std` nor a crate of ours maps files")]
        let mapped = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0)? };
        let mut shared = Shared { first: first_of(mapped), count: 1, guard: None };
        shared.guard = Some(Guard::over(mapped as usize, bytes)?);
        Ok(shared)
    }
}

fn first_of<T>(mapped: *mut std::ffi::c_void) -> NonNull<T> {
    NonNull::new(mapped.cast()).expect("the kernel maps nothing at zero")
}

impl<T: Zeroed> Deref for Shared<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `count` values are mapped there, aligned as a page is, and only `drop` unmaps them. Of no file, they were
        // all zero at first, which is a valid `T`, and are changed through `&T` only, by whichever process; of a file,
        // whatever lies there is valid, and so are the zeros that may take its place.
        #[allow(unsafe_code, reason = "memory that no allocator of ours knows")]
        unsafe {
            std::slice::from_raw_parts(self.first.as_ptr(), self.count)
        }
    }
}

impl<T: Zeroed> Drop for Shared<T> {
    fn drop(&mut self) {
        self.guard = None;
        // SAFETY: mapped with this length; what was lent of it ended with the borrow of `self`. Other processes
        // keep theirs.
        #[allow(unsafe_code, reason = "as above")]
        let unmapped = unsafe { munmap(self.first.as_ptr().cast(), self.count * size_of::<T>()) };
        debug_assert!(unmapped.is_ok(), "it was mapped: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn all_values_are_zero_and_there_is_room_for_each() {
        let shared = Shared::<AtomicU64>::new(10_000).expect("there is memory");
        assert_eq!(shared.len(), 10_000);
        assert!(shared.iter().all(|value| value.load(Ordering::Relaxed) == 0));
        for (number, value) in shared.iter().enumerate() {
            value.store(number as u64, Ordering::Relaxed);
        }
        assert!(shared.iter().enumerate().all(|(number, value)| value.load(Ordering::Relaxed) == number as u64));
    }

    #[test]
    fn too_much_memory_is_an_error() {
        assert!(Shared::<AtomicU64>::new(usize::MAX).is_err());
        assert!(Shared::<AtomicU64>::new(1 << 59).is_err());
    }
}
