from rtk.testing import conformance

test_conformance = conformance("wise-ft")
