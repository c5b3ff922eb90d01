"""Ways for events into and out of the gateway. One connector never imports another; `gateway` imports none of them."""
