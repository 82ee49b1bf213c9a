//! Servers that a relay is put in front of: a thread for each connection, as plain as can be.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;

use crate::client::text;

/// What a speaker says before anybody has said anything.
pub(crate) const SPEECH: usize = 300_000;

/// Serves each connection by `serve`, for as long as the test process lives.
pub(crate) fn serve(serve: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // With room for all clients of several daemons at once.
    rustix::net::listen(&listener, 4096).expect("it listens already");
    let address = listener.local_addr().expect("it is bound");
    let accept = move || {
        for stream in listener.incoming().flatten() {
            thread::Builder::new().stack_size(128 << 10).spawn(move || serve(stream)).expect("a thread");
        }
    };
    thread::Builder::new().name("target".to_owned()).spawn(accept).expect("a thread");
    address
}

/// Bytes back as they came; after the FIN all bytes, then FIN. Shared by all tests of the process.
pub(crate) fn echo() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| serve(echo_to))
}

pub(crate) fn echo_to(mut stream: TcpStream) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..count]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Datagrams back as they came. Shared by all tests of the process.
pub(crate) fn echo_datagrams() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        // For the clients of several daemons at once; the kernel gives what it may.
        sockopt::set_socket_recv_buffer_size(&socket, 4 << 20).expect("a socket has the option");
        let address = socket.local_addr().expect("it is bound");
        let answer = move || {
            let mut bytes = vec![0; 1 << 16];
            loop {
                // An error is of a relay that has gone.
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..len], from);
                }
            }
        };
        thread::Builder::new().name("target".to_owned()).spawn(answer).expect("a thread");
        address
    })
}

/// Says its speech and sends its FIN, and hears the client out.
pub(crate) fn speaker() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        serve(|mut stream| {
            let mut ear = stream.try_clone().expect("a second handle");
            let hears = thread::spawn(move || {
                let mut heard = Vec::new();
                let _ = ear.read_to_end(&mut heard);
            });
            let _ = stream.write_all(&text(SPEECH, 9));
            let _ = stream.shutdown(Shutdown::Write);
            hears.join().expect("it only reads");
        })
    })
}

/// Resets when it has read something.
pub(crate) fn resetter() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        serve(|mut stream| {
            let _ = stream.read(&mut [0; 16]);
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a TCP socket has the option");
        })
    })
}
