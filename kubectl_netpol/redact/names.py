"""Other names for names, word by word.

The VPC CNI and the agent put names together and take them apart: `<pod less its last part>-<namespace>` is a pod
identifier, two pods may share one, and a PolicyEndpoint is called after its policy. Renaming each word by itself, with
the same new word wherever it stands, keeps all of that as it is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from kubectl_netpol.kernel.flowlog import parse_logged_address
from kubectl_netpol.kernel.identity import MOST_INTERFACES, veth_names
from kubectl_netpol.redact.addresses import Addresses
from kubectl_netpol.redact.vocabulary import KEPT_DOMAINS, KEPT_LINKS, KEPT_WORDS, PLAIN_WORDS

_WORD_OF_NAME = re.compile(r"[^\W_]+")
LONGEST_LABEL = 63
"""Of a label's value (kubernetes.io/docs/concepts/overview/working-with-objects/labels)."""
_DIGITS = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without those that are mistaken for each other."""
_VETH = re.compile(r"[0-9a-f]{11}\Z")
_IN_TEXT = re.compile(
    r"(?P<label>(?:Src|Dest) IP\"?:?\s*\"?|\b[SD]IP:\s*)(?P<logged>[0-9A-Fa-f.:]+)"
    r"|(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)"
    r"|(?<![\w.:])(?P<address>(?:\d{1,3}(?:\.\d{1,3}){3}"
    r"|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:\.\d{1,3}){0,3})(?:/\d{1,3})?)(?![\w:])"
    r"|(?P<chunk>[^\W_](?:[\w.-]*[^\W_])?)"
)
"""What a sentence is made of, beside what stands between: times, addresses, and names of one word or more."""


class Names:
    """One renaming of all that names something. ``key``: random bytes, from which all of it follows."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._aliases: dict[str, str] = {}
        self._taken: set[str] = set()
        self._links: dict[str, str] = {}
        self.addresses = Addresses(hashlib.blake2b(b"addresses", key=key).digest())

    @property
    def given(self) -> dict[str, str]:
        """New word -> the word it stands for."""
        return {alias: word for word, alias in self._aliases.items()}

    def word(self, word: str) -> str:
        """Letters and digits; the new one is a letter and four letters or digits."""
        if word.lower() in KEPT_WORDS:
            return word
        found = self._aliases.get(word)
        if found is None:
            found = self._aliases[word] = self._free(word)
            self._taken.add(found)
        return found

    def _free(self, word: str) -> str:
        for attempt in range(1 << 20):
            digest = hashlib.blake2b(f"{attempt}/{word}".encode("utf-8", "replace"), key=self._key).digest()
            alias = "x" + "".join(_DIGITS[byte % len(_DIGITS)] for byte in digest[: 4 + attempt // 64])
            if alias not in self._taken and alias not in KEPT_WORDS:
                return alias
        raise AssertionError("no word is left")

    def name(self, name: str) -> str:
        """Of an object, a namespace, a host: every word of it; what stands between them stays."""
        return _WORD_OF_NAME.sub(lambda found: self.word(found[0]), name)

    def label_key(self, key: str) -> str:
        """Keys of Kubernetes and AWS mean something and stay."""
        domain = key.partition("/")[0] if "/" in key else ""
        if domain and any(domain == one or domain.endswith(f".{one}") for one in KEPT_DOMAINS):
            return key
        return self.label(key)

    def label(self, value: str) -> str:
        """A label's value: one that would become too long gets one word in place of all its words."""
        renamed = self.name(value)
        return renamed if len(renamed) <= LONGEST_LABEL else self.word(value)

    def address_or_name(self, text: str) -> str:
        renamed = self.addresses.text(text)
        return self.name(text) if renamed is None else renamed

    def text(self, text: str) -> str:
        """A sentence: addresses by others, words that are not plain ones by theirs, whatever they may be."""
        return _IN_TEXT.sub(self._piece, text)

    def _piece(self, found: re.Match[str]) -> str:
        if found["time"]:
            return found[0]
        if found["logged"]:
            return found["label"] + self._logged(found["logged"])
        if found["address"]:
            renamed = self.addresses.text(found["address"])
            return self._words(found[0]) if renamed is None else renamed
        return self._words(found[0])

    def _words(self, text: str) -> str:
        """One word, or several with dots and dashes between them: `ip-10-0-0-5` is a name though all of it is plain."""
        link = self._links.get(text) or self.link_name(text)
        if link:
            return link
        words = _WORD_OF_NAME.findall(text)
        numbers = [word for word in words if word.isdecimal()]
        if numbers and len(numbers) < len(words):
            return self.name(text)
        return _WORD_OF_NAME.sub(lambda found: self._plain(found[0]), text)

    def _plain(self, word: str) -> str:
        # Numbers of 12 digits are accounts of AWS; longer ones are times.
        if word.lower() in PLAIN_WORDS or (word.isdecimal() and (len(word) <= 10 or len(word) > 15)):
            return word
        return self.word(word)

    def _logged(self, text: str) -> str:
        """An address as the agent logs it, which may lack its last octets; written out afterwards."""
        address = parse_logged_address(text)
        return self._words(text) if address is None else str(self.addresses.address(address))

    # ---- links

    def know_pods(self, pods: Iterable[tuple[str, str]]) -> None:
        """(namespace, name) of pods: their host veths are called after them, and so after the new ones."""
        for namespace, name in pods:
            for index in range(MOST_INTERFACES):
                renamed = veth_names(self.name(namespace), self.name(name), index)
                self._links.update(zip(veth_names(namespace, name, index), renamed, strict=True))

    def link(self, name: str) -> str:
        """The name of a network interface."""
        return self._links.get(name) or self.link_name(name) or self.name(name)

    def link_name(self, name: str) -> str:
        """Of a veth of a pod that is not known, or of one that is called after nobody; empty for anything else."""
        if KEPT_LINKS.fullmatch(name):
            return name
        found = _VETH.search(name)
        if found is None or not 0 < found.start() <= 4 or not name[: found.start()].isalpha():
            return ""
        digest = hashlib.blake2b(name.encode(), key=self._key).hexdigest()[:11]
        renamed = self._links[name] = name[: found.start()] + digest
        return renamed
