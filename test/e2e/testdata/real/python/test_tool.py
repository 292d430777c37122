import unittest
import tool


class T(unittest.TestCase):
    def test_total(self):
        self.assertEqual(tool.total({"list": [1, 2]}), 3)
