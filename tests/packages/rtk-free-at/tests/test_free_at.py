from rtk.testing import conformance

test_conformance = conformance("free-at")
