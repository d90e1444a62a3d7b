//! Where a request's body ends: nothing that two readers could take differently gets through.

use crate::case::{Case, case};

/// A `POST` with these header lines, and what follows them; behind it a request that must never be seen.
fn post(name: &'static str, headers: &str, rest: &str, client: &str, origin: &str) -> Case {
    let hidden = "GET /hidden HTTP/1.1\r\nHost: test\r\n\r\n";
    let hidden = if client.contains("close") { hidden } else { "" };
    case(name, format!("POST /p HTTP/1.1\r\nHost: test\r\n{headers}\r\n{rest}{hidden}"), client, origin)
}

/// A chunked `POST`.
fn chunked(name: &'static str, rest: &str, client: &str, origin: &str) -> Case {
    post(name, "Transfer-Encoding: chunked\r\n", rest, client, origin)
}

#[rustfmt::skip] // A table.
pub fn cases() -> Vec<Case> {
    let refused = "400 close; fairlead-error: bad-request";
    vec![
        post("a length", "Content-Length: 5\r\n", "hello", "200 open", "POST /p; body=hello; content-length: 5"),
        post("a length of 0", "Content-Length: 0\r\n", "", "200 open", "POST /p; body=; content-length: 0"),
        post("no length", "", "", "200 open", "POST /p; body="),
        post("a length twice", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello", refused, ""),
        post("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello", "400 close", ""),
        post("a list of one length", "Content-Length: 5, 5\r\n", "hello", refused, ""),
        post("a list of lengths", "Content-Length: 5, 6\r\n", "hello", "400 close", ""),
        post("a length with a sign", "Content-Length: +5\r\n", "hello", "400 close", ""),
        post("a length below zero", "Content-Length: -5\r\n", "hello", "400 close", ""),
        post("a length in hexadecimal", "Content-Length: 0x5\r\n", "hello", "400 close", ""),
        post("a length with a comma", "Content-Length: 5,\r\n", "hello", "400 close", ""),
        post("a length with a fraction", "Content-Length: 5.0\r\n", "hello", "400 close", ""),
        post("a length with a space", "Content-Length: 5 5\r\n", "hello", "400 close", ""),
        post("a length in quotes", "Content-Length: \"5\"\r\n", "hello", "400 close", ""),
        post("no number", "Content-Length:\r\n", "", "400 close", ""),
        post("a length beyond 64 bits", "Content-Length: 18446744073709551616\r\n", "", "400 close", ""),
        post("a length beyond 63 bits", "Content-Length: 9223372036854775808\r\n", "", refused, ""),
        post("a length with zeros", "Content-Length: 0000000005\r\n", "hello", "200 open", "POST /p; body=hello"),
        post("length and coding", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", refused, ""),
        post("coding and length", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "0\r\n\r\n", refused, ""),
        post("length and coding in other letters", "CONTENT-LENGTH: 4\r\ntransfer-encoding: CHUNKED\r\n", "0\r\n\r\n", refused, ""),
        post("a bad length and a coding", "Content-Length: x\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", refused, ""),
        chunked("chunks", "5\r\nhello\r\n0\r\n\r\n", "200 open", "POST /p; body=hello; transfer-encoding: chunked"),
        chunked("several chunks", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", "200 open", "POST /p; body=hello"),
        chunked("no chunk at all", "0\r\n\r\n", "200 open", "POST /p; body="),
        chunked("a size with zeros", "00000005\r\nhello\r\n000\r\n\r\n", "200 open", "POST /p; body=hello"),
        chunked("a size in capitals", "A\r\n0123456789\r\n0\r\n\r\n", "200 open", "POST /p; body=0123456789"),
        post("a coding in capitals", "TRANSFER-ENCODING: Chunked\r\n", "2\r\nab\r\n0\r\n\r\n", "200 open", "POST /p; body=ab; transfer-encoding: chunked"),
        post("a coding with blanks around", "Transfer-Encoding: \t chunked \r\n", "2\r\nab\r\n0\r\n\r\n", "200 open", "POST /p; body=ab"),
        post("chunked, identity", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n", "400 close", ""),
        post("identity, chunked", "Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n", refused, ""),
        post("gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", refused, ""),
        post("identity", "Transfer-Encoding: identity\r\n", "", "400 close", ""),
        post("chunked twice", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n", refused, ""),
        post("two codings", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", refused, ""),
        post("two codings, chunked first", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", "0\r\n\r\n", "400 close", ""),
        post("one coding twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", refused, ""),
        post("no coding", "Transfer-Encoding:\r\n", "", "400 close", ""),
        post("a comma before", "Transfer-Encoding: , chunked\r\n", "0\r\n\r\n", refused, ""),
        post("a comma behind", "Transfer-Encoding: chunked,\r\n", "0\r\n\r\n", "400 close", ""),
        post("xchunked", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", "400 close", ""),
        post("chunkedx", "Transfer-Encoding: chunkedx\r\n", "0\r\n\r\n", "400 close", ""),
        post("chunked in quotes", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", "400 close", ""),
        post("chunked with a parameter", "Transfer-Encoding: chunked;a=b\r\n", "0\r\n\r\n", "400 close", ""),
        post("chunked behind a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", "400 close", ""),
        post("chunked behind a fold", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", "400 close", ""),
        post("a space before the colon of a coding", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", "400 close", ""),
        post("a coding on a line that a bare CR begins", "X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", "400 close", ""),
        case("a coding in HTTP/1.0", "POST /p HTTP/1.0\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 close", ""),
        chunked("a chunk with an extension", "5;name=value\r\nhello\r\n0\r\n\r\n", "200 open", "POST /p; body=hello"),
        chunked("a quoted extension", "5;a=\"b;c\"\r\nhello\r\n0;x\r\n\r\n", "200 open", "POST /p; body=hello"),
        chunked("a blank after the size", "5 \r\nhello\r\n0\r\n\r\n", "200 open", "POST /p; body=hello"),
        // The server gets chunks of our making: what was in an extension ends here.
        chunked("a bare LF in an extension", "5;\nx\r\nhello\r\n0\r\n\r\n", "200 open", "POST /p; body=hello"),
        chunked("a size that is none", "z\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a size below zero", "-5\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a space before the size", " 5\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a size of 64 bits", "ffffffffffffffff\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a bare LF after the size", "5\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a bare CR after the size", "5\rhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("no line end after a chunk", "5\r\nhello0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a bare LF after a chunk", "5\r\nhello\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("a chunk longer than its size", "4\r\nhello\r\n0\r\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("trailers", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "200 open", "POST /p; body=hello; !x-sum"),
        chunked("trailers of framing", "5\r\nhello\r\n0\r\nContent-Length: 9\r\nHost: evil\r\n\r\n", "200 open", "POST /p; body=hello; !content-length; host: test"),
        chunked("a bare LF in the trailers", "5\r\nhello\r\n0\r\nX: y\n\r\n", refused, "POST /p; cut off: 1"),
        chunked("bare LFs at the end", "5\r\nhello\r\n0\n\n", refused, "POST /p; cut off: 1"),
    ]
}
