//! Messages that were made to be taken differently by two readers, each with a request hidden in it.

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: test\r\nX: ";

/// Headers of a `POST` whose body holds the hidden request: read as of a length, as chunks, or as nothing.
const HEADERS: &[&str] = &[
    "Transfer-Encoding: chunked\r\nContent-Length: LENGTH\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: identity\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: xchunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding : chunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding:\tchunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding:\x0bchunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: chunked\x0b\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\nX: y\nTransfer-Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\nX: y\rTransfer-Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\nX: y\r\n Transfer-Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding:\r\n chunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding\r\n: chunked\r\n",
    "Content-Length: LENGTH\r\nTransfer_Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: \"chunked\"\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: chunked;q=1\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: CHUNKED\r\n",
    "Content-Length: LENGTH\r\nTransfer-Encoding: \r\n",
    "Content-Length: LENGTH\r\nContent-Length: 0\r\n",
    "Content-Length: 0\r\nContent-Length: LENGTH\r\n",
    "Content-Length: LENGTH, 0\r\n",
    "Content-Length: 0, LENGTH\r\n",
    "Content-Length: +LENGTH\r\n",
    "Content-Length: LENGTH \r\n",
    "Content-Length: 0LENGTH\r\n",
    "Content-Length : LENGTH\r\n",
    "Content-Length\x0b: LENGTH\r\n",
    "Content_Length: LENGTH\r\n",
    "Content-Length: LENGTH\r\nContent_Length: 0\r\n",
    "Content-Length: 0x10\r\n",
    "Content-Length: \x00LENGTH\r\n",
    "X: y\0\r\nContent-Length: LENGTH\r\n",
    "\r\nContent-Length: LENGTH\r\n",
    "Connection: Content-Length\r\nContent-Length: LENGTH\r\n",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
    "Connection: close\r\nConnection: Content-Length\r\nContent-Length: LENGTH\r\n",
    "Expect: 100-continue\r\nContent-Length: LENGTH\r\n",
    "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: LENGTH\r\n",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: LENGTH\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Content-Length: LENGTH\r\n",
    "",
];

/// Bodies in chunks that some readers end elsewhere; none is sent without the hidden request.
const CHUNKS: &[&str] = &[
    "0\r\n\r\n",
    "00\r\n\r\n",
    "0;x\r\n\r\n",
    "0;\nx\r\n\r\n",
    "0;x=\"\r\n\r\n\"\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "0\r\n X: y\r\n\r\n",
    "0\r\nX: y\n\r\n",
    "0\n\n",
    "0\r\r\n\n",
    "0\r\n\n",
    "\r\n\r\n",
    ";x\r\n\r\n",
    "1\r\nx0\r\n\r\n",
    "1\r\nx\n0\r\n\r\n",
    "1\nx\n0\n\n",
    "2;\n\r\nab\r\n0\r\n\r\n",
    "1 ;x\r\nx\r\n0\r\n\r\n",
    "1 2\r\nx\r\n0\r\n\r\n",
    "01\r\nx\r\n0\r\n\r\n",
    "0x1\r\nx\r\n0\r\n\r\n",
    "1_0\r\nx\r\n0\r\n\r\n",
    "+1\r\nx\r\n0\r\n\r\n",
    "-1\r\nx\r\n0\r\n\r\n",
    "100000001\r\nx\r\n0\r\n\r\n",
    "10000000000000001\r\nx\r\n0\r\n\r\n",
    "fffffffffffffffe\r\nx\r\n0\r\n\r\n",
];

pub fn messages() -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let in_headers = HEADERS.iter().flat_map(|headers| {
        let body = format!("0\r\n\r\n{HIDDEN}y\r\n\r\n");
        let headers_of = headers.replace("LENGTH", &body.len().to_string());
        ["POST", "GET", "HEAD"].into_iter().map(move |method| {
            let message = format!("{method} /first HTTP/1.1\r\nHost: test\r\n{headers_of}\r\n{body}");
            (*headers, message.into_bytes())
        })
    });
    let in_chunks = CHUNKS.iter().map(|chunks| {
        let head = "POST /first HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        (*chunks, format!("{head}{chunks}GET /behind HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes())
    });
    in_headers.chain(in_chunks)
}
