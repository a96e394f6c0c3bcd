"""Rewards: how faithfully does a video keep its reference image?"""
