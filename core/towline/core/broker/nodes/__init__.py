"""Several servers that are one: who they are, who holds which token, and requests that another node answers."""
