"""A job on another machine of the owner's: the carrier here, which takes it there and back, and the guest there."""
