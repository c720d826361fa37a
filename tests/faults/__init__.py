"""The fault catalogue: every fault that users have, made on purpose, and the codes that name it."""
