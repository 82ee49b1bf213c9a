//! [`Audience`]: the sessions that hear of one thing, such as the members of a room; who comes and goes holds up nobody who
//! tells them something.

use std::sync::{Arc, Mutex};

use super::mailbox::Address;

/// Addresses that change now and then and are gone through often.
#[derive(Default)]
pub struct Audience {
    /// Copied by whoever comes or goes while somebody goes through it, so that nobody who tells thousands holds the lock.
    addresses: Mutex<Arc<Vec<Address>>>,
}

impl Audience {
    /// One more hears of it from now on.
    pub fn enter(&self, address: &Address) {
        self.change(|addresses| addresses.push(Address::clone(address)));
    }

    /// One that has entered hears of it no more.
    pub fn leave(&self, address: &Address) {
        self.change(|addresses| {
            let place = addresses.iter().position(|other| Arc::ptr_eq(other, address));
            addresses.swap_remove(place.expect("who leaves has entered"));
        });
    }

    /// Those who hear of it now.
    pub fn all(&self) -> Arc<Vec<Address>> {
        Arc::clone(&self.addresses.lock().expect("no thread panics while it holds this lock"))
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Address>)) {
        change(Arc::make_mut(&mut self.addresses.lock().expect("no thread panics while it holds this lock")));
    }
}
