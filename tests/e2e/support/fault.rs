//! What goes wrong with an origin, whatever the path; `/heartbeat` stays as it is.

use std::io;
use std::sync::Mutex;

use super::wire::{Framing, Head, Wire, ms};

/// What an origin does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing wrong.
    None,
    /// Reads and never answers, until there is another fault or none.
    Hang,
    /// Resets the connection as soon as the request's head is there.
    Reset,
    /// Reads the whole request and closes in good order, without answer.
    Close,
    /// Closes half-way through the head of its answer.
    CloseInHead,
    /// Answers 500 to so many of a hundred.
    Errors(u8),
    /// Answers later by so many milliseconds.
    Slow(u64),
    /// Answers a byte at a time.
    Drip,
    /// Answers something that is not HTTP.
    Garbage,
    /// Answers, and closes so many milliseconds later, without warning.
    CloseIdle(u64),
}

/// What becomes of a request.
pub enum Fate {
    /// It is answered as usual.
    Answer,
    /// It has been answered, or not; the connection stays.
    Done,
    /// The connection ends.
    End,
}

impl Fault {
    /// Does it to one request.
    pub async fn meet(now: &Mutex<Fault>, wire: &mut Wire, head: &Head, name: &str) -> io::Result<Fate> {
        let mut body = head.framing(Framing::Length(0));
        let fault = *now.lock().unwrap();
        match fault {
            Fault::None => return Ok(Fate::Answer),
            Fault::Hang => {
                while *now.lock().unwrap() == Fault::Hang {
                    pause(wire, 5).await?;
                }
                return Ok(Fate::Answer);
            }
            Fault::Reset => {
                wire.reset();
                return Ok(Fate::End);
            }
            Fault::Errors(share) if fastrand::u8(..100) >= share => return Ok(Fate::Answer),
            Fault::Slow(millis) => {
                pause(wire, millis).await?;
                return Ok(Fate::Answer);
            }
            _ => {}
        }
        while wire.part(&mut body).await?.is_some() {}
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
        match fault {
            Fault::Errors(_) => wire.write("HTTP/1.1 500 Whatever\r\nContent-Length: 2\r\n\r\nno").await?,
            Fault::Drip => {
                for byte in answer.bytes() {
                    wire.write([byte]).await?;
                    tokio::time::sleep(ms(3)).await;
                }
            }
            Fault::Garbage => {
                wire.write("220 mail.example.com ESMTP\r\n\r\n").await?;
                return Ok(Fate::End);
            }
            Fault::CloseInHead => {
                wire.write(&answer[..25]).await?;
                return Ok(Fate::End);
            }
            Fault::CloseIdle(millis) => {
                wire.write(answer).await?;
                tokio::time::sleep(ms(millis)).await;
                return Ok(Fate::End);
            }
            _ => return Ok(Fate::End),
        }
        Ok(Fate::Done)
    }
}

/// Waits, and fails when the other side leaves meanwhile.
pub async fn pause(wire: &mut Wire, millis: u64) -> io::Result<()> {
    tokio::select! {
        _ = tokio::time::sleep(ms(millis)) => Ok(()),
        _ = wire.closed() => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
