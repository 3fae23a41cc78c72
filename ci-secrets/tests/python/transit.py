"""What the client hvac makes of the transit engine that the tests stand in for, and of what the root key wrapped.

Reads one JSON object from standard input, writes one to standard output.
"""

import json
import sys

import hvac

asked = json.load(sys.stdin)
client = hvac.Client(url=asked["address"], token=asked["token"], verify=asked["authority"])
transit = client.secrets.transit
bound = {"associated_data": asked["context"]}

told = {
    "authenticated": client.is_authenticated(),
    "renewable": client.auth.token.lookup_self()["data"]["renewable"],
    "latest": transit.read_key(name="one")["data"]["latest_version"],
    # What the root key wrapped.
    "plaintext": transit.decrypt_data(name="one", ciphertext=asked["ciphertext"], **bound)["data"]["plaintext"],
    # What the root key shall unwrap.
    "ciphertext": transit.encrypt_data(name="one", plaintext=asked["plaintext"], **bound)["data"]["ciphertext"],
    "refused": {},
}


def refused(name, call):
    try:
        call()
        told["refused"][name] = None
    except hvac.exceptions.VaultError as error:
        told["refused"][name] = [type(error).__name__, *error.errors]


refused("no context", lambda: transit.decrypt_data(name="one", ciphertext=asked["ciphertext"]))
refused("other key", lambda: transit.decrypt_data(name="other", ciphertext=asked["ciphertext"], **bound))
refused("missing key", lambda: transit.decrypt_data(name="missing", ciphertext=asked["ciphertext"], **bound))
refused("rewrap", lambda: transit.rewrap_data(name="one", ciphertext=asked["ciphertext"]))
client.token = "unknown"
refused("unknown token", lambda: transit.decrypt_data(name="one", ciphertext=asked["ciphertext"], **bound))
json.dump(told, sys.stdout)
