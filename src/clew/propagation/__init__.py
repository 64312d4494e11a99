"""The request ID on its way: in the Context, in headers, to the hosts that may have it."""
