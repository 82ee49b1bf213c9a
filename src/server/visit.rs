//! A client from its coming to its going: the [`Service`] that turns what a session is shown into calls of [`Receive`].
//!
//! It enters the directory in its first turn, when posts to it are heard, and leaves it in its last call. Bytes are shown
//! where they lie; only a frame that wraps in its ring is put together first. A note in its mailbox means that it is to be
//! closed. Read next: `clients.rs`, the other direction.

use std::sync::Arc;

use super::{Builder, ClientId, Clients, Receive};
use crate::session::framing::{Found, Framer, Framing};
use crate::session::handler::{Chunks, Closed, Handler, Mailing, Next, Pace, Reply, Sending, Service};
use crate::session::mailbox::{Address, Limits};

/// The service of one server.
pub(super) struct Host<R> {
    shared: Arc<Shared<R>>,
    mailing: Mailing,
    pace: Pace,
}

struct Shared<R> {
    receiver: R,
    clients: Clients,
    framing: Option<Framing>,
}

/// One client.
struct Visit<R> {
    host: Arc<Shared<R>>,
    mailbox: Address,
    framer: Option<Framer>,
    /// None before it has opened.
    id: Option<ClientId>,
}

impl<R: Receive> Host<R> {
    pub(super) fn new(builder: &Builder, receiver: R, clients: &Clients) -> Host<R> {
        let mailing = Mailing { limits: Limits::of(builder.mailbox_bytes), calls: 1, sending: Sending::Vectored };
        let shared = Shared { receiver, clients: clients.clone(), framing: builder.framing };
        Host { shared: Arc::new(shared), mailing, pace: builder.pace }
    }
}

impl<R: Receive> Service for Host<R> {
    fn name(&self) -> &'static str {
        "server"
    }

    fn open(&self, address: Option<&Address>) -> Box<dyn Handler> {
        Box::new(Visit {
            mailbox: Address::clone(address.expect("it was asked for")),
            framer: self.shared.framing.map(Framer::new),
            host: Arc::clone(&self.shared),
            id: None,
        })
    }

    fn mailbox(&self) -> Option<Mailing> {
        Some(self.mailing)
    }

    fn speaks_first(&self) -> bool {
        true
    }

    fn pace(&self) -> Pace {
        self.pace
    }
}

impl<R: Receive> Visit<R> {
    fn id(&self) -> ClientId {
        self.id.expect("nothing is heard of a session before it opens")
    }

    /// Calls the handler.
    fn call(&self, call: impl FnOnce(&R, &Clients)) {
        let Shared { receiver, clients, .. } = &*self.host;
        clients.note_call_here();
        call(receiver, clients);
    }

    fn receive(&self, data: &[u8]) {
        self.call(|receiver, clients| receiver.on_receive(clients, self.id(), data));
    }

    fn receive_frame(&self, body: Chunks<'_>) {
        match body.slices() {
            (whole, []) => self.receive(whole),
            _ => {
                let mut whole = vec![0; body.len()];
                body.copy_to(&mut whole);
                self.receive(&whole);
            }
        }
    }
}

impl<R: Receive> Handler for Visit<R> {
    fn handle_open(&mut self, _reply: &mut Reply<'_>) -> Next {
        let id = self.host.clients.enter(&self.mailbox);
        self.id = Some(id);
        self.call(|receiver, clients| receiver.on_open(clients, id));
        Next::More
    }

    fn handle_input(&mut self, input: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        if self.mailbox.is_half_full() {
            // Whoever takes nothing is not listened to: what it says would only be answered by more.
            return Next::Room;
        }
        let Some(framer) = &mut self.framer else {
            let (data, _) = input.slices();
            self.receive(data);
            return Next::Discard(data.len());
        };
        match framer.find(input) {
            Found::Frame { body, bytes } => {
                self.receive_frame(body);
                Next::Discard(bytes)
            }
            Found::Part { bytes } => Next::Gather(bytes),
            Found::More => Next::More,
            Found::TooShort => Next::Reject("a frame that is too short"),
            Found::TooLong => Next::Reject("a frame that is too long"),
        }
    }

    fn handle_room(&mut self, _reply: &mut Reply<'_>) -> Next {
        if self.mailbox.is_half_full() { Next::Room } else { Next::More }
    }

    fn handle_note(&mut self, _reply: &mut Reply<'_>) -> Next {
        Next::Finish { forward: 0 }
    }

    fn handle_end(&mut self, rest: Chunks<'_>, _reply: &mut Reply<'_>) -> Next {
        if !rest.is_empty() {
            // A frame that has not ended is none.
            return Next::Discard(rest.len());
        }
        self.call(|receiver, clients| receiver.on_end(clients, self.id()));
        Next::More
    }

    fn handle_closed(&mut self, closed: Closed) {
        let Some(id) = self.id else { return };
        self.host.clients.leave(id);
        self.call(|receiver, clients| receiver.on_close(clients, id, closed));
    }
}
