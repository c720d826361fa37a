"""What holds the documentation and the commands together; `python -m tests.docs.update` writes what is made of them."""
