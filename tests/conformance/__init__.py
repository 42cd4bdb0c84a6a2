"""One suite of requests for two servers: ours, and a real Triton as the oracle of the protocol."""
