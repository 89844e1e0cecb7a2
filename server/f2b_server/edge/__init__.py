"""The centre's only door to the outside: what a hospital's SuperNode needs, for keys on the roster, and enrolment."""
