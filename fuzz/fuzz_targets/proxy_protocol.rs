//! The PROXY protocol from any bytes: the same header whatever follows it, none before it is whole, and what was written
//! is what is read.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use fairlead::filters::proxy_protocol::{Header, LONGEST, Malformed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    any(bytes);
    if let Some((address, more)) = valid(bytes) {
        written(address, more);
    }
});

fn any(bytes: &[u8]) {
    let read = parse(bytes);
    let followed = |tail: &[u8]| parse(&[bytes, tail].concat());
    match read {
        Ok(Some(header)) => {
            assert!(header.length <= bytes.len() && header.length <= LONGEST);
            assert_eq!(parse(&bytes[..header.length]), read, "it depends on what follows");
            for tail in [&b"\n"[..], b"GET / HTTP/1.1\r\n", &[0xff; 300]] {
                assert_eq!(followed(tail), read, "it depends on what follows");
            }
            // All of a line; of the other kind the last byte and those that are looked at.
            for cut in (0..header.length).take(LONGEST.min(256)).chain([header.length - 1]) {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "whole after {cut} of {}", header.length);
            }
        }
        Ok(None) => assert!(bytes.len() < LONGEST, "waits for ever"),
        Err(Malformed) => {
            for tail in [&b"\r\n"[..], &[0; 300]] {
                assert_eq!(followed(tail), Err(Malformed), "mended by what follows");
            }
        }
    }
}

/// An address, and fields that follow it.
fn valid(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (ip, rest) = if kind % 2 == 0 {
        let (ip, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::from(*ip), rest)
    } else {
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::from(*ip), rest)
    };
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), &rest[..rest.len().min(LONGEST - 52)]))
}

fn written(client: SocketAddr, more: &[u8]) {
    let (word, family, octets) = match client.ip() {
        IpAddr::V4(ip) => ("TCP4", 0x11, ip.octets().to_vec()),
        IpAddr::V6(ip) => ("TCP6", 0x21, ip.octets().to_vec()),
    };
    let line = format!("PROXY {word} {0} {0} {1} {1}\r\n", client.ip(), client.port());
    let rest = [&octets[..], &octets, &client.port().to_be_bytes(), &[0, 80], more].concat();
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    binary.push(family);
    binary.extend_from_slice(&u16::try_from(rest.len()).unwrap().to_be_bytes());
    binary.extend_from_slice(&rest);
    for header in [line.as_bytes(), &binary] {
        let expected = Header { client: Some(client), length: header.len() };
        assert_eq!(parse(header), Ok(Some(expected)));
        any(&[header, more].concat());
    }
}
