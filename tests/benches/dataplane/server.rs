//! What answers behind the programs at the socket: echoes of TCP and UDP, in a process of their own, so that
//! they can be in a cgroup of their own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Serves ports of TCP and of UDP until its input ends; how this program starts itself. It begins when told,
/// so that its sockets are made in the cgroup that it was put into.
pub(crate) fn serve(tcp: &[u16], udp: &[u16]) {
    let mut word = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut word)
        .expect("a word");
    for port in tcp {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).expect("bind");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || echo(stream));
            }
        });
    }
    for port in udp {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).expect("bind");
        std::thread::spawn(move || {
            let mut buffer = [0; 256];
            // An error is an ICMP answer to what a user who is gone was sent.
            loop {
                if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..count], from).ok();
                }
            }
        });
    }
    println!("ready");
    std::io::stdin().lock().read_line(&mut word).ok();
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 256];
    stream.set_nodelay(true).ok();
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

/// A server in a cgroup of its own; ended when dropped.
pub(crate) struct Server(Child);

impl Server {
    /// Starts it at ports of TCP and of UDP.
    pub(crate) fn start(cgroup: &Path, tcp: &[u16], udp: &[u16]) -> Server {
        let list = |ports: &[u16]| -> String {
            let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
            ports.join(",")
        };
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--serve", &list(tcp), "--serve-udp", &list(udp)])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the server");
        std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).expect("its cgroup");
        child
            .stdin
            .as_mut()
            .expect("piped")
            .write_all(b"go\n")
            .expect("tell it");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("its answer");
        assert_eq!(line, "ready\n");
        Server(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().ok();
    }
}
