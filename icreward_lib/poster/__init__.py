"""The poster's pipeline, in its order: notebooks 01 to 06 call these modules."""
