//! A blocking client of a few lines: tests must decide which message is lost, late or doubled, and no real client lets them.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use fairlead::load::redis::{Args, Value};

/// A reply, or the error as Redis wrote it.
pub type Reply = Result<Value, String>;

/// A command as it goes over the wire.
#[derive(Default)]
pub struct Command {
    words: usize,
    body: Vec<u8>,
}

impl Command {
    pub fn of(words: &[&[u8]]) -> Self {
        let mut command = Self::default();
        words.iter().for_each(|word| command.word(word));
        command
    }

    pub fn script(sha1: &str, keys: &[Bytes]) -> Self {
        let mut command = Self::of(&[b"EVALSHA", sha1.as_bytes()]);
        command.int(keys.len() as i64);
        keys.iter().for_each(|key| command.text(key));
        command
    }

    pub fn word(&mut self, word: &[u8]) {
        self.words += 1;
        self.body.extend(format!("${}\r\n", word.len()).bytes());
        self.body.extend(word);
        self.body.extend(b"\r\n");
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("*{}\r\n", self.words).into_bytes();
        bytes.extend(&self.body);
        bytes
    }
}

impl Args for Command {
    fn int(&mut self, number: i64) {
        self.word(number.to_string().as_bytes());
    }

    fn text(&mut self, text: &Bytes) {
        self.word(text);
    }
}

pub struct Conn(BufReader<UnixStream>);

impl Conn {
    pub fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::with_capacity(1 << 16, stream))
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    pub fn call(&mut self, command: &Command) -> Reply {
        self.send(&command.bytes());
        self.read()
    }

    /// A command that must not fail.
    pub fn ask(&mut self, words: &[&[u8]]) -> Value {
        self.call(&Command::of(words)).unwrap()
    }

    pub fn read(&mut self) -> Reply {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).unwrap();
        assert!(line.ends_with(b"\r\n"), "Redis hung up");
        line.truncate(line.len() - 2);
        let rest = line.split_off(1);
        let number = || std::str::from_utf8(&rest).unwrap().parse::<i64>().unwrap();
        Ok(match line[0] {
            b'+' => Value::Bytes(rest.into()),
            b'-' => return Err(String::from_utf8(rest).unwrap()),
            b':' => Value::Int(number()),
            _ if number() < 0 => Value::Nil,
            b'$' => {
                let mut bytes = vec![0; number() as usize + 2];
                self.0.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Value::Bytes(bytes.into())
            }
            _ => Value::Array((0..number()).map(|_| self.read()).collect::<Result<_, _>>()?),
        })
    }
}

/// A list of texts; nil is empty.
pub fn texts(value: Value) -> Vec<String> {
    let Value::Array(list) = value else { panic!("not a list: {value:?}") };
    list.into_iter().map(text).collect()
}

/// A text; nil is empty.
pub fn text(value: Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}
