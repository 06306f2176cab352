"""accelnb"""
