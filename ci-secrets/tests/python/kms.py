"""AWS KMS by moto, over TLS, and what the client boto3 makes of it and of what the root key wrapped.

Is given the files of a server's certificate and key, and of their authority. Writes the address and the ARNs of two keys
as one line of JSON, and then answers every line of JSON on standard input with one, until it is closed.
"""

import json
import sys
import threading
from base64 import b64decode, b64encode

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

certificate, key, authority = sys.argv[1:4]
REGION = "eu-central-1"


class Quiet(WSGIRequestHandler):
    def log(self, *_):
        pass


server = make_server(
    "127.0.0.1",
    0,
    DomainDispatcherApplication(create_backend_app),
    threaded=True,
    ssl_context=(certificate, key),
    request_handler=Quiet,
)
threading.Thread(target=server.serve_forever, daemon=True).start()
address = f"https://localhost:{server.server_port}"
client = boto3.client(
    "kms",
    region_name=REGION,
    endpoint_url=address,
    verify=authority,
    aws_access_key_id="AKIDEXAMPLE",
    aws_secret_access_key="secret",
    config=Config(retries={"total_max_attempts": 1}),
)


def answer(asked):
    context = {"EncryptionContext": {"ci-context": asked.get("context", "")}}
    try:
        if asked["do"] == "encrypt":
            made = client.encrypt(KeyId=asked["key"], Plaintext=b64decode(asked["plaintext"]), **context)
            return b64encode(made["CiphertextBlob"]).decode()
        if asked["do"] == "decrypt":
            made = client.decrypt(KeyId=asked["key"], CiphertextBlob=b64decode(asked["ciphertext"]), **context)
            return b64encode(made["Plaintext"]).decode()
        if asked["do"] == "sign":
            return signature(asked)
    except ClientError as error:
        return error.response["Error"]["Code"]
    raise ValueError(asked["do"])


def signature(asked):
    """The header Authorization that botocore gives the same request at the same time."""
    credentials = Credentials("AKIDEXAMPLE", asked["secret"])
    request = AWSRequest(method="POST", url=f"https://{asked['headers']['host']}/", data=asked["body"].encode())
    for name, value in asked["headers"].items():
        request.headers[name] = value
    request.context["timestamp"] = asked["headers"]["x-amz-date"]
    auth = SigV4Auth(credentials, "kms", REGION)
    to_sign = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(to_sign, request))
    return request.headers["Authorization"]


keys = [client.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
print(json.dumps({"address": address, "keys": keys}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
