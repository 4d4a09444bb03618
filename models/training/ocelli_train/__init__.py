"""Define, check, train, label with, measure and export Ocelli's detectors."""
