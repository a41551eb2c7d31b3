//! What only an edge over HTTP, or only a bucket, can get wrong.

mod bucket;
mod doctor;
mod http;
mod http2;
