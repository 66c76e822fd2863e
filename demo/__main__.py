"""`python demo`, which `make demo` calls."""

from show import main

main()
