//! Who holds a key ring could otherwise seal a ticket of their own, and with it any trust.

use ci_core::id::JobId;
use ci_core::secret::Purpose;

fn main() {
    let _ = Purpose::ticket(&JobId::random());
}
