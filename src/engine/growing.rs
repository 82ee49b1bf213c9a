//! [`Growing`]: a list that grows while others read it, up to a bound, and in which nothing ever moves.
//!
//! For what each worker has to itself, where workers come and go: whoever holds a reference reads it with no look at the list.
//! A place is memory once somebody has needed it, so that the bound costs a pointer for each. Read next: `roster.rs`.

use std::ops::Index;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) struct Growing<T> {
    places: Box<[OnceLock<Box<T>>]>,
    /// How many there are. Raised by whoever adds one, once it is there.
    len: AtomicUsize,
}

impl<T> Growing<T> {
    /// An empty list for at most `most`.
    pub(super) fn new(most: usize) -> Growing<T> {
        Growing { places: (0..most).map(|_| OnceLock::new()).collect(), len: AtomicUsize::new(0) }
    }

    /// Adds one, and says its number; for one thread at a time.
    ///
    /// # Panics
    /// If there are as many as there may be.
    pub(super) fn push(&self, value: T) -> usize {
        let number = self.len();
        assert!(self.places[number].set(Box::new(value)).is_ok(), "one thread adds at a time");
        // Release; pairs with the Acquire in `len`: who knows the number finds what is there.
        self.len.store(number + 1, Ordering::Release);
        number
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// How many there may be.
    pub(super) fn most(&self) -> usize {
        self.places.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places[..self.len()].iter().map(|place| &**place.get().expect("it was added"))
    }
}

impl<T> Index<usize> for Growing<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        self.places[number].get().expect("it was added")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_stays_where_it_is() {
        let list = Growing::new(3);
        let first: &u32 = {
            assert_eq!((list.push(7), list.len()), (0, 1));
            &list[0]
        };
        assert_eq!((list.push(8), list.push(9)), (1, 2));
        assert_eq!((*first, std::ptr::eq(first, &raw const list[0])), (7, true));
        assert_eq!((list.iter().copied().collect::<Vec<_>>(), list.most()), (vec![7, 8, 9], 3));
    }
}
