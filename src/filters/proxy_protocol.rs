//! The PROXY protocol, by which a balancer in front of us says who its client is: one header before all else on a
//! connection, as text (version 1) or in binary (version 2).
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Pure: bytes in, address out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header that is read. Version 1 has at most 107 bytes and addresses of version 2 at most 232, but further
/// fields may follow them.
pub const LONGEST: usize = 4096;

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = 16;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client. None: the peer speaks for itself (a check of health), or does not know an address of IP.
    pub client: Option<SocketAddr>,
    /// Bytes of the header; what comes after them is the client's.
    pub length: usize,
}

/// The bytes begin with no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the header that `bytes` begin with. None: it is not whole yet.
///
/// # Errors
/// It can be none, whatever follows, or it would be longer than [`LONGEST`].
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => text(bytes),
        Some(_) => binary(bytes),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`
fn text(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    const START: &[u8] = b"PROXY ";
    if !begins(bytes, START) {
        return Err(Malformed);
    }
    let within = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = within.iter().position(|byte| *byte == b'\n') else {
        return if bytes.len() < LONGEST_LINE { Ok(None) } else { Err(Malformed) };
    };
    let line = within[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(START)).ok_or(Malformed)?;
    let client = if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") { None } else { Some(addresses(line)?) };
    Ok(Some(Header { client, length: end + 1 }))
}

/// `TCP4 SOURCE DESTINATION PORT PORT`: the source.
fn addresses(line: &[u8]) -> Result<SocketAddr, Malformed> {
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut words = line.split(' ');
    let [Some(family), Some(from), Some(to), Some(from_port), Some(to_port), None] =
        std::array::from_fn(|_| words.next())
    else {
        return Err(Malformed);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    // Rust takes `+80` and `080` too.
    let port = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| plain)
    };
    match (address(from), address(to), port(from_port), port(to_port)) {
        (Some(ip), Some(_), Some(port), Some(_)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(Malformed),
    }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if !begins(bytes, &SIGNATURE) {
        return Err(Malformed);
    }
    let local = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(Malformed),
    };
    let [family, high, low] = match bytes.get(13..FIXED) {
        Some(&[family, high, low]) => [family, high, low],
        _ => return Ok(None),
    };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(Malformed);
    }
    let Some(rest) = bytes.get(FIXED..length) else {
        // What is left cannot mend it.
        return if local || holds_addresses(family, length - FIXED) { Ok(None) } else { Err(Malformed) };
    };
    let client = if local { None } else { source(family, rest)? };
    Ok(Some(Header { client, length }))
}

/// Bytes of the two addresses and ports of a family; None: there is no such family.
fn size(family: u8) -> Option<usize> {
    match (family >> 4, family & 15) {
        (_, 3..) => None,
        (0, _) => Some(0),
        (1, _) => Some(12),
        (2, _) => Some(36),
        (3, _) => Some(216),
        _ => None,
    }
}

fn holds_addresses(family: u8, length: usize) -> bool {
    size(family).is_some_and(|size| size <= length)
}

/// The client, where it came by TCP.
fn source(family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    if !holds_addresses(family, rest.len()) {
        return Err(Malformed);
    }
    let port = |at: usize| rest.get(at..at + 2).and_then(|port| port.try_into().ok()).map(u16::from_be_bytes);
    let client = match family {
        0x11 => rest.first_chunk::<4>().map(|ip| IpAddr::from(*ip)).zip(port(8)),
        0x21 => rest.first_chunk::<16>().map(|ip| IpAddr::from(*ip)).zip(port(32)),
        // Sockets of one machine, datagrams, or nothing that is known: an address that no client of HTTP/1 can have.
        _ => None,
    };
    Ok(client.map(|(ip, port)| SocketAddr::new(ip, port)))
}

/// Whether `bytes` begin with `start`, as far as they go.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v1(line: &str) -> Result<Option<Header>, Malformed> {
        parse(line.as_bytes())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb];

    #[test]
    fn lines_of_version_1() {
        let line = "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";
        assert_eq!(v1(line), Ok(Some(Header { client: client("192.0.2.1:56324"), length: line.len() })));
        assert_eq!(v1(&format!("{line}GET / HTTP/1.1\r\n")), v1(line), "what follows is not the header's");
        let six = v1("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n").unwrap().unwrap();
        assert_eq!(six.client, client("[2001:db8::1]:0"));
        for unknown in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN whatever \u{e9} there is\r\n"] {
            assert_eq!(v1(unknown), Ok(Some(Header { client: None, length: unknown.len() })));
        }
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
        assert_eq!(v1(&longest).unwrap().unwrap().length, 107);
        assert_eq!(v1(&longest.replace("x\r", "xx\r")), Err(Malformed));
    }

    #[test]
    fn lines_that_are_none() {
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXX",
            "PROXY\tTCP4",
            "proxy TCP4 ",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 00 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
        ] {
            assert_eq!(v1(bad), Err(Malformed), "{bad:?}");
        }
    }

    #[test]
    fn headers_of_version_2() {
        let read = |bytes: &[u8]| parse(bytes).map(|header| header.map(|header| (header.client, header.length)));
        assert_eq!(read(&v2(0x21, 0x11, &V4)), Ok(Some((client("192.0.2.1:56324"), 28))));
        let more = [&V4[..], b"\x04\0\x05hello"].concat();
        assert_eq!(read(&v2(0x21, 0x11, &more)), Ok(Some((client("192.0.2.1:56324"), 36))));
        let mut six = [0; 36];
        six[..16].copy_from_slice(&Ipv6Addr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 7]).octets());
        six[32..34].copy_from_slice(&[0, 80]);
        assert_eq!(read(&v2(0x21, 0x21, &six)), Ok(Some((client("[2001:db8::7]:80"), 52))));
        // A check of health, an unknown client, a socket of the machine, datagrams.
        assert_eq!(read(&v2(0x20, 0x11, &V4)), Ok(Some((None, 28))));
        assert_eq!(read(&v2(0x20, 0xff, &[])), Ok(Some((None, 16))), "of LOCAL the rest is not looked at");
        assert_eq!(read(&v2(0x21, 0, b"abc")), Ok(Some((None, 19))));
        assert_eq!(read(&v2(0x21, 0x31, &[0; 216])), Ok(Some((None, 232))));
        assert_eq!(read(&v2(0x21, 0x12, &V4)), Ok(Some((None, 28))));
        let longest = v2(0x21, 0x11, &[&V4[..], &[0; LONGEST - 28]].concat());
        assert_eq!(read(&longest), Ok(Some((client("192.0.2.1:56324"), LONGEST))));
    }

    #[test]
    fn what_is_no_version_2_is_known_as_soon_as_it_can_be() {
        for bad in [
            v2(0x11, 0x11, &V4),
            v2(0x22, 0x11, &V4),
            v2(0x21, 0x41, &V4),
            v2(0x21, 0x13, &V4),
            v2(0x21, 0x11, &V4[..11]),
            v2(0x21, 0x21, &V4),
            v2(0x21, 0x11, &[0; LONGEST - 15]),
        ] {
            assert_eq!(parse(&bad[..16]), Err(Malformed), "{bad:?}");
        }
        assert_eq!(parse(b"\r\n\r\n\0\r\nQUIZ"), Err(Malformed));
        assert_eq!(parse(b"\x16\x03\x01"), Err(Malformed), "TLS");
    }

    proptest! {
        #[test]
        fn every_part_of_a_header_is_not_whole_yet(family in 0..2, ip: u128, port: u16, tail: Vec<u8>, more: Vec<u8>) {
            let ip = if family == 0 { IpAddr::from(Ipv4Addr::from_bits(ip as u32)) } else { Ipv6Addr::from_bits(ip).into() };
            let (text, binary) = match ip {
                IpAddr::V4(v4) => ("TCP4", v2(0x21, 0x11, &[&v4.octets()[..], &[0; 4], &port.to_be_bytes(), &[0; 2], &tail].concat())),
                IpAddr::V6(v6) => ("TCP6", v2(0x21, 0x21, &[&v6.octets()[..], &[0; 16], &port.to_be_bytes(), &[0; 2], &tail].concat())),
            };
            for header in [format!("PROXY {text} {ip} {ip} {port} 443\r\n").into_bytes(), binary] {
                for upto in 0..header.len() {
                    prop_assert_eq!(parse(&header[..upto]), Ok(None));
                }
                let expected = Header { client: Some(SocketAddr::new(ip, port)), length: header.len() };
                prop_assert_eq!(parse(&[&header[..], &more].concat()), Ok(Some(expected)));
            }
        }
    }
}
