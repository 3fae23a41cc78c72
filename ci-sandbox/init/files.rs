//! What programs need to find, where an image brings none.

use core::ffi::CStr;

/// Files in `/etc` that name users and hosts.
pub(crate) const FILES: [(&CStr, &[u8]); 5] = [
    (
        c"passwd",
        b"root:x:0:0:root:/:/bin/false\nci:x:1000:1000:ci:/home/ci:/bin/sh\n\
          nobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (c"group", b"root:x:0:\nci:x:1000:\nnogroup:x:65534:\n"),
    (c"hosts", b"127.0.0.1 localhost\n::1 localhost\n"),
    (c"nsswitch.conf", b"passwd: files\ngroup: files\nhosts: files dns\n"),
    (c"resolv.conf", b""),
];
