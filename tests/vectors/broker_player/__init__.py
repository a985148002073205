"""A player of recorded broker sessions: it puts one of our root machines in the place of one recorded peer.

What the other recorded peers said is said again, byte for byte but for what is made afresh each time (session ids,
websocket keys, stream ids, numbers of acknowledgements). What our machine says is compared with what the recorded one
said: for each connection, each session and each request by itself, because the order between them is the network's.
"""
