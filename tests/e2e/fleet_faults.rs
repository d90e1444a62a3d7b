//! What Redis does to nodes when it is not well: nothing that a client could notice.
