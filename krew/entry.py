"""The program of the archive."""

import os


def _as_it_was(environment: "os._Environ[str]") -> None:
    """Takes back what PyInstaller's bootloader set. Programs that are started from here, credential plugins such as
    `aws eks get-token`, must not load their libraries from the archive. The loader read it when this process began, so
    that nothing changes here (https://pyinstaller.org/en/stable/common-issues-and-pitfalls.html)."""
    for name in [name for name in environment if name.startswith("_PYI_")]:
        del environment[name]
    for name in ("LD_LIBRARY_PATH", "LIBPATH"):
        environment.pop(name, None)
        if (before := environment.pop(f"{name}_ORIG", None)) is not None:
            environment[name] = before


if __name__ == "__main__":
    if os.name == "posix":
        _as_it_was(os.environ)

    from kubectl_netpol.start import main

    main()
